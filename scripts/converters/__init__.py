"""From the formats in which packages carry models to folders in Hugging Face's layout."""
