"""What white-box attacks share: where a suffix stands, what a target costs a model, which tokens may stand in it."""
