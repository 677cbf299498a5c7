from resilient.lab.pytest_plugin import lab, session_lab

__all__ = ["lab", "session_lab"]
