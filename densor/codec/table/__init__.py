"""Tables as text: columns under each other's contexts. See table.md."""
