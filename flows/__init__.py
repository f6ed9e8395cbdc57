"""What is orchestrated: one Prefect flow a file, and the command line."""
