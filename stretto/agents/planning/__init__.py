"""Plans as code, as graphs and from PDDL: checked, tried on a twin of the world, revised."""

from stretto.agents.planning.code import CodePlan, CodeStep
from stretto.agents.planning.graph import GraphPlan, GraphResult, GraphStep, StepResult
from stretto.agents.planning.pddl import Action, Solution, solve, to_code
from stretto.agents.planning.revise import Draft, Planned, make_plan
from stretto.agents.planning.validate import NoTwinError, Twin, stand_in, validate

__all__ = [
    "Action",
    "CodePlan",
    "CodeStep",
    "Draft",
    "GraphPlan",
    "GraphResult",
    "GraphStep",
    "NoTwinError",
    "Planned",
    "Solution",
    "StepResult",
    "Twin",
    "make_plan",
    "solve",
    "stand_in",
    "to_code",
    "validate",
]
