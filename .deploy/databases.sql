-- one database each: both keep the state of their migrations in a table of the same name
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
