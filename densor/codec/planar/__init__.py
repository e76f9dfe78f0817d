"""The planar codec: byte planes, each coded by classes of runs. See spec.md."""
