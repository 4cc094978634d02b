/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Xen's credit2.c as it is, but for CLI and STI, which a process may not execute. It takes locks with them where it adds
 * pCPUs and domains, never in what is counted. */
#include <asm/system.h>
#undef local_irq_disable
#define local_irq_disable() barrier()
#undef local_irq_enable
#define local_irq_enable() barrier()
#undef local_irq_save
#define local_irq_save(x) ((x) = 0)
#undef local_irq_restore
#define local_irq_restore(x) ((void)(x))
#include "credit2.c"
