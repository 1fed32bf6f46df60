"""The model in a loop, without any server: ``model_alone.py ROWS.npy SECONDS BATCH`` prints JSON."""

import json
import sys
import time

import numpy as np
import the_model as model

rows = np.load(sys.argv[1])
limit_s = float(sys.argv[2])
x = np.repeat(rows[:1], int(sys.argv[3]), axis=0)
run = model.load(model.PATH)
run(x)
runs = 0
start_s, cpu_s = time.perf_counter(), time.process_time()
while (elapsed_s := time.perf_counter() - start_s) < limit_s:
    run(x)
    runs += 1
print(json.dumps({"runs": runs, "seconds": elapsed_s, "cpu_s": time.process_time() - cpu_s, "batch": len(x)}))
