"""Pure loss kernels: functions of arrays, with the list on the last axis."""
