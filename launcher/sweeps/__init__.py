"""`infoprompt sweep`: many trials on Ray. The dispatcher and what it uses know nothing of Ray, but for `ray_*`."""
