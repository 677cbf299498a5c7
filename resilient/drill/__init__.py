"""The fire drill: a service's workload through both drop-ins, real faults, a judgement.

    lab and observer (this process)  ◄── JSON lines ── client under test (a process of its own)

`plan` says which faults, `workload*` what the client does, `checker` and `limits` judge what it
recorded against what the lab's observer saw, `runner` plays it all.  Every moment is
`time.monotonic()`, which all processes of a machine share.
"""
