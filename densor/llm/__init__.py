"""Language models in integers: what one machine computes, every other computes too. See docs/format/llm.md."""
