"""FastAPI on uvicorn: uvicorn fastapi_app:app --workers 2."""

from fastapi import FastAPI, Request
from package_model import PackageModel
from starlette.concurrency import run_in_threadpool

app = FastAPI()
model = PackageModel()


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    return await run_in_threadpool(model.predict, await request.body())
