"""What must hold before anything is sent: halves, evaluation, tables, and that nothing private is staged."""
