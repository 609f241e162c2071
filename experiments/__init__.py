"""One file a table or figure, and what turns its trials into tables, pictures and verdicts."""
