"""`infoprompt study`: methods against each other, searched and trained on this machine, with tables and figures."""
