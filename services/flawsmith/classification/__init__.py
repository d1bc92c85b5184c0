"""Classification: trains defect classifiers, sets their thresholds, deploys them, answers."""
