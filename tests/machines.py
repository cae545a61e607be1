"""Trees of ``/proc`` and ``/sys`` as machines have them, for what reads below a root."""

from pathlib import Path

ANY_LINUX = {
    "proc/stat": (
        "cpu  1000 0 500 8000 500 0 0 0 0 0\n"
        "cpu0 500 0 250 4000 250 0 0 0 0 0\n"
        "cpu1 500 0 250 4000 250 0 0 0 0 0\n"
        "intr 1\n"
    ),
    "proc/self/stat": "42 (a (bad) name) S 1 42 42 0 -1 4194560 9 9 9 9 70 20 8 2 20 0 1 0\n",
    "proc/self/io": "rchar: 1\nwchar: 2\nread_bytes: 0\nwrite_bytes: 4096\n",
    "proc/meminfo": (
        "MemTotal:  4000000 kB\nMemAvailable:  1500000 kB\n"
        "SwapTotal:  200000 kB\nSwapFree:  150000 kB\n"
    ),
    "proc/pressure/cpu": "some avg10=1.00 avg60=12.50 avg300=0.00 total=1\n",
    "proc/pressure/memory": (
        "some avg10=0.00 avg60=0.25 avg300=0.00 total=1\n"
        "full avg10=0.00 avg60=99.00 avg300=0.00 total=1\n"
    ),
    "proc/pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}

RASPBERRY_PI_5 = ANY_LINUX | {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61350\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "61350\n",
}

JETSON_ORIN_NANO = ANY_LINUX | {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51218\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "49500\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "4992\n",
    "sys/class/hwmon/hwmon1/curr2_input": "248\n",
    "sys/class/hwmon/hwmon1/curr4_input": "1500\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "17\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "sys/class/block/mmcblk0/device/life_time": "0x02 0x03\n",
    "sys/class/block/mmcblk0/device/pre_eol_info": "0x02\n",
    "sys/class/block/mmcblk0p1/device/life_time": "0x09 0x09\n",
}

LAPTOP = ANY_LINUX | {
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "acpitz\n",
    "sys/class/thermal/thermal_zone1/temp": "41000\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/capacity": "64\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/mouse/type": "Battery\n",
    "sys/class/power_supply/mouse/scope": "Device\n",
    "sys/class/power_supply/mouse/capacity": "3\n",
    "sys/class/block/mmcblk1/device/type": "SD\n",
}

STRANGE = {
    "proc/stat": "cpu  many\n",
    "proc/self/stat": "no brackets\n",
    "proc/self/io": "write_bytes: ?\n",
    "proc/meminfo": "MemAvailable:  much kB\n",
    "proc/pressure/cpu": "some avg60=lots\n",
    "sys/class/thermal/thermal_zone0/type": "\n",
    "sys/class/thermal/thermal_zone0/temp": "warm\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "zz\n",
    "sys/class/hwmon/hwmon0/curr1_input": "\n",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "none\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/capacity": "250\n",
    "sys/class/block/mmcblk0/device/life_time": "0x00 0x00\n",
    "sys/class/block/mmcblk0/device/pre_eol_info": "0x00\n",
    "var/lib/nvpmodel/status": "\n",
}


def build(root: Path, tree: dict[str, str]) -> Path:
    """Write a tree below ``root`` and return it."""
    for place, text in tree.items():
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root
