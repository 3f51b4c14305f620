"""How a weight's scales and integers are chosen, by what calibration saw the layer take. Each module is one paper."""
