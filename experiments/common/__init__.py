"""What the experiments share: settings, runs, records, data, statistics, tracking."""
