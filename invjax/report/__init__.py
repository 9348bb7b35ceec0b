"""What results look like: figures, tables and pages."""
