"""Instruction data: files to rows, rows to chats, chats to token ids with labels."""
