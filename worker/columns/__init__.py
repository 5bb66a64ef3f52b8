"""Which column a value goes to, and in what form: the part that SQL destinations share. Pure.

* A declared column has its declared type, any other that of the first value seen in it; key columns that are not
  declared are text, since vendors send the same id as a number here and as a string there.
* Text and JSON columns take every value. What does not fit another column (a garbage date, text among numbers)
  goes, as it was sent, to a sibling `<column>__text`, and the column itself is empty: nothing is lost, no batch
  fails. One change in place exists: whole numbers that meet a larger or broken one become `numeric`, where the
  database can do that safely. More widening would rewrite tables and break views for values that are rare.
* SQL names are the source's own, cut to 63 bytes, made distinct and remembered in `_relay_columns`.
* What a database cannot hold at all (NUL characters, numbers beyond `numeric`) is rejected by name.
"""
