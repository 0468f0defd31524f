"""NVIDIA's own Python client on the fake library: what it reads and sets, line by line. See honesty.rs, which does the same.

usage: client.py LIBRARY    with RIGD_SIMULATION set and nvidia-ml-py on PYTHONPATH
"""

import ctypes
import os
import socket
import sys

import pynvml as n

n.nvmlLib = ctypes.CDLL(sys.argv[1])
control = socket.socket(socket.AF_UNIX)
control.connect(os.path.join(os.environ["RIGD_SIMULATION"], "control"))


def say(line):
    control.sendall(line.encode() + b"\n")
    answer = b""
    while not answer.endswith(b"ok\n"):
        answer += control.recv(65536)


def show(key, call):
    try:
        value = call()
    except n.NVMLError as error:
        value = "error %d" % error.value
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, (list, tuple)):
        value = " ".join(str(part) for part in value)
    print(key, value)


def done(call):
    call()
    return "done"


def memory(gpu):
    info = n.nvmlDeviceGetMemoryInfo(gpu, n.nvmlMemory_v2)
    return info.total, info.free, info.used


def rates(gpu):
    info = n.nvmlDeviceGetUtilizationRates(gpu)
    return info.gpu, info.memory


def pci(gpu):
    info = n.nvmlDeviceGetPciInfo(gpu)
    text = info.busId
    return text if isinstance(text, str) else text.decode(), info.bus, info.pciDeviceId, info.pciSubSystemId


def fields(gpu):
    out = []
    for value in n.nvmlDeviceGetFieldValues(gpu, [82, 83, 142, 185, 186, 193, 194, 230]):
        signed = value.value.siVal if value.valueType == 5 else value.value.ullVal
        out += [value.nvmlReturn, value.valueType, signed]
    return out


def processes(gpu):
    return [part for info in n.nvmlDeviceGetComputeRunningProcesses(gpu) for part in (info.pid, info.usedGpuMemory)]


def reads(gpu):
    show("name", lambda: n.nvmlDeviceGetName(gpu))
    show("uuid", lambda: n.nvmlDeviceGetUUID(gpu))
    show("serial", lambda: n.nvmlDeviceGetSerial(gpu))
    show("vbios", lambda: n.nvmlDeviceGetVbiosVersion(gpu))
    show("pci", lambda: pci(gpu))
    show("minor", lambda: n.nvmlDeviceGetMinorNumber(gpu))
    show("temperature", lambda: n.nvmlDeviceGetTemperatureV(gpu, 0))
    show("slowdown", lambda: n.nvmlDeviceGetTemperatureThreshold(gpu, 1))
    show("margin", lambda: n.nvmlDeviceGetMarginTemperature(gpu))
    show("power", lambda: n.nvmlDeviceGetPowerUsage(gpu))
    show("limit", lambda: n.nvmlDeviceGetPowerManagementLimit(gpu))
    show("limits", lambda: n.nvmlDeviceGetPowerManagementLimitConstraints(gpu))
    show("energy", lambda: n.nvmlDeviceGetTotalEnergyConsumption(gpu))
    show("sm", lambda: n.nvmlDeviceGetClockInfo(gpu, 1))
    show("mem", lambda: n.nvmlDeviceGetClockInfo(gpu, 2))
    show("max", lambda: n.nvmlDeviceGetMaxClockInfo(gpu, 1))
    show("memory clocks", lambda: n.nvmlDeviceGetSupportedMemoryClocks(gpu))
    show("fans", lambda: n.nvmlDeviceGetNumFans(gpu))
    show("fan", lambda: n.nvmlDeviceGetFanSpeed_v2(gpu, 0))
    show("rpm", lambda: n.nvmlDeviceGetFanSpeedRPM(gpu))
    show("reasons", lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
    show("rows", lambda: n.nvmlDeviceGetRemappedRows(gpu))
    show("utilization", lambda: rates(gpu))
    show("memory", lambda: memory(gpu))
    show("processes", lambda: processes(gpu))
    show("width", lambda: n.nvmlDeviceGetCurrPcieLinkWidth(gpu))
    show("fields", lambda: fields(gpu))


n.nvmlInit()
show("driver", n.nvmlSystemGetDriverVersion)
show("count", n.nvmlDeviceGetCount)
say("gpu 0 process 4242 1024")
say("advance 30")
gpus = [n.nvmlDeviceGetHandleByIndex(index) for index in range(6)]
for gpu in gpus:
    reads(gpu)
first = gpus[0]
show("set limit", lambda: done(lambda: n.nvmlDeviceSetPowerManagementLimit(first, 200000)))
show("set limit", lambda: done(lambda: n.nvmlDeviceSetPowerManagementLimit(first, 1)))
show("lock", lambda: done(lambda: n.nvmlDeviceSetGpuLockedClocks(first, 900, 1200)))
show("lock memory", lambda: done(lambda: n.nvmlDeviceSetMemoryLockedClocks(first, 0, 5400)))
show("lock", lambda: done(lambda: n.nvmlDeviceSetGpuLockedClocks(gpus[1], 900, 1200)))
show("offset", lambda: done(lambda: n.nvmlDeviceSetMemClkVfOffset(first, 500)))
show("set fan", lambda: done(lambda: n.nvmlDeviceSetFanSpeed_v2(first, 0, 70)))
show("set fan", lambda: done(lambda: n.nvmlDeviceSetFanSpeed_v2(first, 0, 20)))
show("persistence", lambda: done(lambda: n.nvmlDeviceSetPersistenceMode(first, 1)))
say("advance 30")
reads(first)
show("free", lambda: done(lambda: n.nvmlDeviceSetDefaultFanSpeed_v2(first, 0)))
say("gpu 0 fall")
reads(first)
show("by address", lambda: done(lambda: n.nvmlDeviceGetHandleByPciBusId("00000000:01:00.0")))
show("by address", lambda: done(lambda: n.nvmlDeviceGetHandleByPciBusId("00000000:02:00.0")))
show("by uuid", lambda: done(lambda: n.nvmlDeviceGetHandleByUUID("GPU-none")))
show("error", lambda: n.nvmlErrorString(15))
n.nvmlShutdown()
show("after", lambda: n.nvmlDeviceGetCount())
