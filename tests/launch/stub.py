"""Stands for gcloud, kubectl, ssh, ...: notes how it was called in calls.txt and answers as answers.json says.

That is a list of [regular expression, [answer, ...]]; the first expression found in the call counts, the n-th such call
gets the n-th answer, and later ones the last: an exit code, a text to print, or "wait", for SIGTERM, or "run", the last
argument as a bash command. Without any the answer is 0.
"""

import json
import os
import pathlib
import re
import sys
import time

folder = pathlib.Path(__file__).resolve().parent
call = " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
with open(folder / "calls.txt", "a") as f:
    f.write(call.replace("\n", "; ") + "\n")
for i, (pattern, answers) in enumerate(json.loads((folder / "answers.json").read_text())):
    if re.search(pattern, call):
        with open(folder / f"count{i}", "a+") as f:
            f.write("x")
            f.seek(0)
            answer = answers[min(len(f.read()), len(answers)) - 1]
        if answer == "wait":
            time.sleep(60)
        elif answer == "run":
            os.chdir(folder / "home")
            os.execvp("bash", ["bash", "-c", sys.argv[-1]])
        elif isinstance(answer, str):
            print(answer)
        else:
            sys.exit(answer)
        break
