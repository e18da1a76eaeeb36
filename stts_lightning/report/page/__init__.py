"""One HTML page of everything that MLflow holds, beside what the paper prints."""
