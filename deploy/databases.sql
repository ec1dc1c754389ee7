-- Run once by PostgreSQL's image, when its volume is empty: one database for the log, one for each service.
CREATE DATABASE tcc;
CREATE DATABASE accounts;
CREATE DATABASE inventory;
CREATE DATABASE orders;
