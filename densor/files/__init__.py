"""What a user does with files: pack, restore, append, compare, shard."""
