"""The local stack: two IDCs on one machine, run by supervisord.

`layout` says where everything lies, `ports` and `secrets` choose what is chosen once, `programs` says what runs,
`supervisor` runs it, `health` asks it, `up`, `down` and `status` are what the commands call, `watch` restarts what
hangs.
"""
