"""Lightning callbacks, installed as `ddm.callbacks`."""
