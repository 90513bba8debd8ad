"""Starting, watching and ending a run: resources, watchdog, progress, the run's record, and a clean shutdown."""
