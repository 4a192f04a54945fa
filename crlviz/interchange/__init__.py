"""Networks from and to other programs: import, export, inspect."""
