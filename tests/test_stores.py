"""The stores of the tests do what real ones do: asked by google-cloud-storage and boto3 themselves."""

import boto3


def test_q(gcs_store, s3_store, s3_reader, gcs_objects, monkeypatch):
    s3_store.use(monkeypatch)
    c = boto3.client("s3")
    b, _, p = s3_store.url[5:].partition("/")
    c.put_object(Bucket=b, Key=p + "/x", Body=b"1", IfNoneMatch="*")
    c.close()
    s3_reader.use(monkeypatch)
    c = boto3.client("s3")
    print(c.get_object(Bucket=b, Key=p + "/x")["Body"].read())
    c.close()
