"""The paper's tables beside what is counted and measured here: Fu & Cohen, DeepPrism, VSIP 2023.

`table` is plain data that becomes Markdown or JSON; `counts` has Table 3 and the ratios of Secs. 4.2 and 4.3, which are
exact; `complexity` has Table 2, its formulas and how time and memory grow on this machine; `budgets`, `methods`,
`points` and `figure` are Table 4 and Figure 1, whose models are trained.
"""

from .complexity import Sizes, table_2
from .counts import ldm, sinddm, table_3
from .table import Table

__all__ = ["Sizes", "Table", "ldm", "sinddm", "table_2", "table_3"]
