"""Values that a database made up and a caller has seen, when their transaction is done again.

    forms      what a statement is, from its parse tree: which column gets what
    made       what a column's default makes up, and whether a sequence's value may be given back
    rewrite    the statement that gives seen values back, and the proof that it is still the same
    block      one transaction: what is given back, and why what isn't

Trees are PostgreSQL's own (libpg_query's JSON form, as nested dicts); who parses is the caller's
business.  A form that isn't known here is refused, never guessed.
"""
