# fungi-seg on processors. No test builds this image; docs/guide.md says how it is used.
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 fungi && mkdir /data /home/fungi/.cache && chown fungi /data /home/fungi/.cache

WORKDIR /opt/fungi_seg
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY fungi_seg fungi_seg
# PyPI's wheels of torch bring gigabytes for GPUs; PyTorch's own index has those for processors alone. FAISS's wheel for
# Linux on x86-64 still brings some of CUDA's libraries, which stay idle.
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir -c constraints.txt ".[objects]"

USER fungi
WORKDIR /data
ENTRYPOINT ["fungi-seg"]
CMD ["--help"]
