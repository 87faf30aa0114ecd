"""How good the copies are: metrics, and replays of a data set or of the service's own log."""
