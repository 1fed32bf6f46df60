"""FastAPI as a user writes it first: a pydantic model, a plain function, no batching."""

import the_model as model
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
run = model.load(model.PATH)


class Request(BaseModel):
    instances: list


@app.post("/predict")
def predict(request: Request) -> dict:
    return {"predictions": run(model.floats(request.instances)).tolist()}
