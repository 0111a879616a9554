"""What tasks are made of: documents, answers and their outcomes."""
