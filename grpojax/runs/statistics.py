"""How sure a measured accuracy is."""

import math


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

        center = (p + z²/2n) / (1 + z²/n)
        half   = z sqrt(p (1 - p) / n + z²/4n²) / (1 + z²/n)

    Exact at the edges: no success has the lower end 0, nothing but successes the upper
    end 1, and of no trials nothing is known: (0, 1).

    **Arguments:**

    - `successes`: how many of the trials succeeded, p = successes / n.
    - `n`: how many trials there were.
    - `z`: standard deviations to each side; 1.96 for 95%.

    **Returns:** the lower and the upper end.

    **Raises:** `ValueError` unless 0 <= successes <= n.

    !!! example

        ```python
        wilson(5, 10)  # (0.2366, 0.7634)
        ```
    """
    if not 0 <= successes <= n:
        raise ValueError(
            "wilson(successes, n) needs 0 <= successes <= n. Received "
            f"successes={successes}, n={n}."
        )
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + z**2 / n
    center = (p + z**2 / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / scale
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return low, high
