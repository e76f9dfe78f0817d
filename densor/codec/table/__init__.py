"""Tables as text: columns under each other's contexts. See spec.md."""
