"""Networks: the one that the experiments train on digits, and stock Flax models of the field, which know no convjax."""
