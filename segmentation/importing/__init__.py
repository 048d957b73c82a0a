"""Any folder or archive, understood once and written in the plain form that a training reads."""
