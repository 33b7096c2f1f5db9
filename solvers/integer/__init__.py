"""Sums of terms as integer programs, whichever library solves them.

A policy is one value per parameter, so that a program has one binary variable per choice (parameter
k takes value i) and one per pair of choices that has an effect of its own:

                  parameters           one value each
      q0     kv0     mlp0     ...      x[k,0] + x[k,1] + ... = 1
     0 1     0 1     0 1
       |       |
       +---+---+                       y[a,b] = x[a] and x[b]
           |
    pairs of choices

    minimise    sum value[k,i] x[k,i] + sum value[a,b] y[a,b]      the objective
    subject to  sum cost[k,i]  x[k,i] + sum cost[a,b]  y[a,b]      each budget
                   <= limit
                x[q, layer l] <= sum of x[kv, later layers]        no dead operation

A cost is linear only for a fixed share of tokens, n_v, which multiplies every operation. There is
one program per share, a *slice* of the space; the optimum is the best of their optima (`slices`,
`minimum`). The points of a space that is listed are one slice instead: the budgets select the list
of rows that the program may choose from.

All coefficients are integers. Divergences become whole multiples of a step first, and the solution
records what this can hide (`quantise`). Whatever a library answers is checked against the problem
(`solve`).
"""
