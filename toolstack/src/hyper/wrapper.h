/* SPDX-License-Identifier: GPL-3.0-only */
/* What build.rs binds: the toolstack interface of the patched tree's public headers, and three of its libraries. */
#define __XEN_TOOLS__ 1
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/sysctl.h>
#include <xen/hvm/save.h>
#include <xencall.h>
#include <xenforeignmemory.h>
#include <xentoollog.h>
