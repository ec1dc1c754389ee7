"""The spine as a whole: clients, manager and banks on real connections, databases and processes."""
