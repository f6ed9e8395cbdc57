"""Write the run down in MLflow, register the model, decide on promotion."""
