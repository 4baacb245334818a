"""Making a student smaller before it learns: fewer tokens, layers, neurons, experts."""
