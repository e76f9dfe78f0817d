"""Language models in integers: what one machine computes, every other computes too. See llm.md."""
