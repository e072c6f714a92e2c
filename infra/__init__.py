"""Where it runs: settings, vocabulary, the dataset store, clusters."""
