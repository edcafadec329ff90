"""What an environment is like, found out by trying: `diffpolicy check-env`."""

from diffpolicy.evaluation.check_env.advice import describe
from diffpolicy.evaluation.check_env.check import check_environment
from diffpolicy.evaluation.check_env.findings import Findings, Report, command_line, yaml_lines

__all__ = ["Findings", "Report", "check_environment", "command_line", "describe", "yaml_lines"]
