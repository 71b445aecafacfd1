"""What to ask next: curricula, pure functions of a memory in the train state.

memory = curriculum.init(env)
problems = curriculum.draw(memory, key, step, count)
memory = curriculum.advance(memory, problems)
memory = curriculum.observe(memory, problems, rewards)
"""

from ._curriculum import (
    AbstractCurriculum as AbstractCurriculum,
    Uniform as Uniform,
)
from ._epochs import Mixture as Mixture, ShuffledEpochs as ShuffledEpochs
from ._pass_rate import (
    AbstractPassRate as AbstractPassRate,
    Learnability as Learnability,
    PassRateBand as PassRateBand,
)
