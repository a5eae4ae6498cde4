from .champion_checks import SIGNIFICANCE as SIGNIFICANCE
from .report import ReportedVersion as ReportedVersion, ReportHeader as ReportHeader, render_report as render_report
from .rules import RuleOutcome as RuleOutcome, RuleResult as RuleResult, Thresholds as Thresholds
from .verdict import (
    CHAMPION as CHAMPION,
    Hashes as Hashes,
    Opponent as Opponent,
    Verdict as Verdict,
    comparability as comparability,
    judge as judge,
)
