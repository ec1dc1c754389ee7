"""Looks at what an installation stands on and says what is wrong and how to mend it; changes nothing."""
