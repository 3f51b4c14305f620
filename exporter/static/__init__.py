"""Static activations: ranges measured on samples, and the one graph with integers between its layers."""
